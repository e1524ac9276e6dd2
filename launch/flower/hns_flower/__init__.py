"""HideNseek on Flower: server and clients are processes or machines."""
