"""Names of other packages that are not part of their public interface, one module a package.

Only these modules use such names; tests/house/test_compat.py checks that each exists. Every room may import from here.
"""
