"""The packages of the wheel; everything else is in pyproject.toml. conf/ is the data of a package iql.conf."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["iql", "iql.*"]), "iql.conf"], package_dir={"iql.conf": "conf"})
