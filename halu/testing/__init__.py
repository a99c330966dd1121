"""What a strategy's or adapter's tests need, for third parties too: random models of every family,
built offline.
"""
