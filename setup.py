"""Package metadata; build and tool configuration is in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "skyreels_jax/__init__.py").read_text())[1]

TORCH = ["torch>=2.6"]  # reads official .pth files
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "beartype>=0.20",
    "diffusers==0.42.1",
    "torch==2.13.0",
    "accelerate>=1.0",
    "pyyaml>=6",
    "peft>=0.17",  # with it diffusers loads adapters
    "nbclient>=0.10",  # runs the notebooks
    "ipykernel>=6.29",
]

setup(
    name="skyreels-jax",
    version=VERSION,
    description="SkyReels-V2, a film generative model, in JAX: training, sampling, evaluation",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["skyreels_jax", "skyreels_jax.*"]),
    package_data={"skyreels_jax": ["assets/tiny/**/*", "**/*.md", "**/*.html"]},
    install_requires=[
        "jax>=0.10,<0.13",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "tensorstore>=0.1.84",  # reads parts of checkpoints
        "grain>=0.2.18",
        "tensorflow-datasets>=4.9.10",
        "array_record>=0.8",
        "importlib_resources",  # tensorflow-datasets needs it and does not say so
        "transformers>=5,<6",
        "tokenizers>=0.22",  # reads what transformers writes
        "ml-collections>=1.1",
        "imageio>=2.35",
        "av>=14.1",
        "pillow>=10",
        "safetensors>=0.8",
        "jaxtyping>=0.3",
        "ftfy>=6",
        "huggingface_hub>=1",
        "tqdm>=4.66",
        "tensorboardX>=2.6.2",
        "numpy>=2",
        "scipy>=1.12",
        "ml_dtypes>=0.5",
        "matplotlib>=3.9",
    ],
    extras_require={
        "cuda": ["jax[cuda12]>=0.10,<0.13"],
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        "torch": TORCH,
        "wandb": ["wandb>=0.18"],
        "test": TEST,
        "dev": [*TEST, "ruff>=0.9", "pyright[nodejs]>=1.1.390", "pre-commit>=4", "build>=1"],
    },
    entry_points={"console_scripts": ["skyreels-jax=skyreels_jax.cli.main:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
