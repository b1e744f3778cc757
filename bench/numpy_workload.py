"""What bench/c_stack_vs_gdb.py samples: a mix of numpy that spends its time in many kinds of machine code."""

import pickle
import sys

import numpy as np


def once(rng):
    a = rng.standard_normal((160, 160))
    b = a @ a.T + 160 * np.eye(160)
    np.linalg.svd(a[:60, :60])
    np.linalg.solve(b, a)
    np.linalg.eigvalsh(b[:80, :80])
    np.linalg.cholesky(b)
    np.fft.fft2(a)
    np.sort(a.ravel())
    np.argsort(a, axis=0, kind="stable")
    np.unique((a * 10).astype(int))
    np.einsum("ij,jk->ik", a[:40, :40], a[:40, :40])
    np.sin(a), np.exp(a), np.log1p(abs(a)), np.arctan2(a, b), np.power(abs(a), 0.3)
    (a.astype(np.float32) * 2 + 1).astype(np.complex128).conj()
    np.vectorize(lambda x: x + 1)(a[:20, :20])
    np.apply_along_axis(lambda row: sorted(row)[3], 1, a[:60])
    np.frompyfunc(lambda x, y: x + y, 2, 1).reduce(a[:10].astype(object), axis=0)
    np.cumsum(a, axis=1), a.mean(axis=0), a.std(), np.median(a), np.percentile(a, [5, 50, 95])
    np.char.upper(np.array(["abc", "defg"] * 200))
    np.array([str(x) for x in a[0]]).astype(float)
    np.searchsorted(np.sort(a[0]), a[1])
    np.where(a > 0, a, -a)[a > 1].sum()
    np.convolve(a[0], a[1])
    rng.permutation(5000), rng.gamma(2.0, size=3000), rng.choice(1000, 100, replace=False)
    pickle.loads(pickle.dumps(a))
    repr(a[:5])


def main():
    rng = np.random.default_rng(5)
    for _ in range(int(sys.argv[1])):
        once(rng)


if __name__ == "__main__":
    main()
