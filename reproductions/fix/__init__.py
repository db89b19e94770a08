"""Find, fix, verify: planted and natural shortcuts, found without being told, fixed, measured."""
