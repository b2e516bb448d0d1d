"""The phantom: digital patients with an adnexal mass, from tissue by MR physics to images, reports and records.

It is for engineering and never clinical proof.
"""
