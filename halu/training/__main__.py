"""`python -m halu.training tiny-llava|tiny-qwen|tiny-clip --out DIR`."""

from halu.training.command import main

if __name__ == "__main__":
    main()
