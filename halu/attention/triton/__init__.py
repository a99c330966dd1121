"""The kernels of grouped attention; nothing of halu needs this package to be importable.

`tile` has what all kernels share, `decode`, `prompt` and `columns` a kernel family each.
`arguments` turns a checked call into what a kernel reads, `launch` picks a family, `configs` sizes
it.
"""
