"""Leyline: neural networks that grow while they train, under a policy that anyone can swap.

This package holds what every participant of the contract shares: the generated messages and
services (`leyline.v1`), the observation vector (`leyline.observation`), the randomness of a step
(`leyline.identity`), a client (`leyline.client`) and the command line (`leyline.cli`).
"""
