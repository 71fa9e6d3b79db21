"""What a program would need on devices that are not there: memory, communication, time."""
