import os
import sys

import faultproof
from Cython.Build import cythonize
from setuptools import Extension, setup

# the folder that has the package, for faultproof/__init__.pxd
path = [os.path.dirname(os.path.dirname(faultproof.__file__)), *sys.path]
stack = Extension("stack", ["stack.pyx"], include_dirs=[faultproof.get_include()])
setup(name="stack", version="1", ext_modules=cythonize([stack], include_path=path))
