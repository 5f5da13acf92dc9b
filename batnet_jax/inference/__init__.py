"""A trained model: restore it, embed images, search a gallery.

The model:
    restore, saved_settings   the network, the variables and the settings of a checkpoint
    loading, model            `load`, and the `Model` that it returns, which embeds images
    fingerprint               a digest of everything that features depend on
    box_steps                 compiled steps for the boxes in a stream of frames
    evaluate_model            `Model.evaluate`

Files of features:
    feature_file, block_sums  features, paths and columns as an .npz, with checksums
    columns                   what a gallery keeps about each image, such as its camera
    living_gallery            changes of a file: images that are new, changed or gone
    shards, shard_gallery     a gallery in many files, and how it is opened as one
    claims                    locks by which several processes share the shards
    save_index                `Model.save_index`
    index_file, index_end     indices for faiss: flat ones, and what follows an index in its file
    near_index                approximate indices of faiss
    lance_gallery, lance_load, lance_filter   galleries in LanceDB: searched, loaded, filtered

Search:
    gallery, joined_galleries   anything that can be searched, and several galleries as one
    where                       filters of the columns
    own_files                   the query's own file in the gallery
    search                      a gallery ranked for each query
    hits, hit_columns           ranked lists in Python, and the columns of their images
"""
