"""Attribution beside other libraries: passes, time and memory, in one run."""
