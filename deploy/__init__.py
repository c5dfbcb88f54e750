"""Installing: ``install.sh`` for a machine, ``lock.py`` for the locked Python packages."""
