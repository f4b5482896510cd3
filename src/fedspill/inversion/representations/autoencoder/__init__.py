"""Encoders that hand an image on as far as their layers allow, and the way back.

Shi, Wang, Xiao, Lou, Hou: "Scale-MIA: A Scalable Model Inversion Attack against Secure Federated Learning via Latent
Space Reconstruction", NDSS 2025, arXiv 2311.05808. The closed form is not in the paper.

- `encoder`: the layers before a place in a network, their parameters, and what reaches the place.
- `components`: convolutions that hand on principal components of what they see, and their inverse.
- `training`: an encoder and a decoder trained together on public images.
- `files`: a trained one in a file.
"""
