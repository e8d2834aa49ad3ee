"""jointrt: JOINT video object segmentation (Mao et al., ICCV 2021) as engines, with the released code's masks."""

__version__ = "0.1.0"
