"""``python -m softmix_dist`` is the ``softmix`` command."""

from softmix_dist.cli import main

if __name__ == "__main__":
    main(prog_name="softmix")
