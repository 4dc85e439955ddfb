"""A machine and a recipe made ready: doctor, init, calibration."""
