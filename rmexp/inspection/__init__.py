"""What a data set is like before anything is trained on it: task=inspect."""
