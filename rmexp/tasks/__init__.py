"""Tasks: one thin file each. A task receives built objects; its signature says which."""
