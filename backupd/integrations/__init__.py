"""Callbacks for training libraries, each of which tells the daemon when a checkpoint is written.

One module for each library, which is imported when its callback is made and not before.
"""
