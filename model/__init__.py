"""The trainer: networks (Keras 3), a parameter store, and asynchronous training around it."""
