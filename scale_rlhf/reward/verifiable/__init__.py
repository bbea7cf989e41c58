"""Rewards that are checked and not guessed: named by their import path, as a user's own functions are.

    reward: {function: "scale_rlhf.reward.verifiable.mathematics:final_answer"}

What they read was written by a model that is rewarded for deceiving them.
"""
