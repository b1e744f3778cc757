from setuptools import Extension, setup

import faultproof

setup(
    name="stack",
    version="1",
    ext_modules=[Extension("stack", ["stack.c", "stack_collect.c"], include_dirs=[faultproof.get_include()])],
)
