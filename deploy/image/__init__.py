"""The container image: Debian packages, the locked Python packages, and this tree."""
