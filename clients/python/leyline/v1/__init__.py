"""The messages and services of ``leyline.v1``, generated when the package is installed."""
