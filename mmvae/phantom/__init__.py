"""Digital patients with an adnexal mass: tissue → MR physics → images, words and records. Engineering, never clinical proof."""
