"""The playground: widgets to change settings during a style transfer, in JupyterLab, in Colab and as a web app."""

from .playground import Playground

__all__ = ["Playground"]
