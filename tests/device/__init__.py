"""Tests on the accelerator that torch finds; on the CPU where there is none."""
