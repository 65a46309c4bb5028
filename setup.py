"""What the build needs beside pyproject.toml: the packages, by hand.

``twisted.plugins`` is no package of ours (it has no ``__init__.py``, and must not get one): naming it
here makes the plugin file land in Twisted's own plugins folder.  ``package_dir`` makes an editable
install put this folder on the path, so that Twisted finds the plugin there too.
"""

from setuptools import setup

setup(
    packages=[
        "txvbcast",
        "txvbcast.cli",
        "txvbcast.cli.bench",
        "txvbcast.client",
        "txvbcast.control",
        "txvbcast.core",
        "txvbcast.managers",
        "txvbcast.net",
        "txvbcast.sim",
        "txvbcast.sim.checks",
        "txvbcast.sim.explore",
        "txvbcast.store",
        "txvbcast.virt",
        "txvbcast.wire",
        "twisted.plugins",
    ],
    package_dir={"": "."},
)
