"""Makes the checkpoint beside it; run with tensorflow-cpu 2.21 installed."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

if __name__ == "__main__":
    module = tf.Module()
    module.a = tf.Variable(tf.range(300.0))
    module.b = [tf.Variable(tf.ones([7], tf.float16)) for _ in range(40)]
    tf.train.Checkpoint(module).write(str(Path(__file__).with_name("ckpt")))
