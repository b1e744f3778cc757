import faultproof
from setuptools import Extension, setup

setup(
    name="stack",
    version="1",
    ext_modules=[Extension("stack", ["stack.c", "stack_collect.c"], include_dirs=[faultproof.get_include()])],
)
