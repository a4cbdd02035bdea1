"""What in an image decides a network's answer: maps, and checks of those maps."""
