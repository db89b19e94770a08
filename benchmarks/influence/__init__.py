"""Training-data attribution beside other libraries: time, memory, and whether the lists agree."""
