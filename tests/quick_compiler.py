"""What XLA is told in tests, which compile much and compute little.

The compiler's optimisations would double their time. Fusions that are compiled each for itself
would add three quarters: a run of a tiny model took 15.5 s of CPU time with them, 8.9 s without.
The notebooks run without these flags.
"""

FLAGS = ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")
