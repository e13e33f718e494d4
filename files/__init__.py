"""Files that no crash leaves half, that no damage passes through unseen, and folders with one writer. For all rooms."""
