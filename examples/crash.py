"""Crashes for real: reads address 0 through ctypes, in a worker thread."""

import ctypes
import threading


def read_settings(address):
    return ctypes.string_at(address)


def worker():
    read_settings(0)


thread = threading.Thread(target=worker)
thread.start()
thread.join()
