"""`python -m tastemaker`, which launchers such as torchrun start."""

from tastemaker.cli import main

if __name__ == "__main__":
    main()
