"""TensorFlow starts quietly, and with the same threads, in every test."""

from model import quiet

quiet.start_tensorflow()
