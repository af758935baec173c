"""The data that travels with the package: a subset of Fashion-MNIST and a ResNet-20 trained on the rest of it."""
