"""`python -m bitweir_loadgen` is `bitweir`."""

from bitweir_loadgen.cli import main

main()
