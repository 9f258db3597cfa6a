"""The op table on the CPU, by the native library."""
