"""The parent process, its workers and the engines that it launches."""
