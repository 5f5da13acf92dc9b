"""k-reciprocal re-ranking (Zhong et al., CVPR 2017).

Modules, in the order of the data:

    neighbours    features -> the nearest items of each item, and the distance of its farthest
    encoding      neighbours -> a sparse vector for each item: its k-reciprocal neighbours
    k_reciprocal  vectors -> final distances of queries to the gallery, block by block
    row_ranks     distances -> ranks of the relevant items
    evaluate      ranks -> figures: `evaluate_reranked`
"""
