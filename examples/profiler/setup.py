import faultproof
from setuptools import Extension, setup

setup(
    name="profiler",
    version="1",
    ext_modules=[Extension("profiler", ["profiler.c"], include_dirs=[faultproof.get_include()])],
)
