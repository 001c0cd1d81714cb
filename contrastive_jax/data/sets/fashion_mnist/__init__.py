"""Fashion-MNIST: a subset that ships with the package, and the full files."""
