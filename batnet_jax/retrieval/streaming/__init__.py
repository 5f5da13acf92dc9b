"""The streaming evaluator: the ranks of all relevant items, without a distance matrix.

The rank of a relevant item is 1 + the number of gallery items ahead of it. The evaluator computes
the scores of some queries against some gallery items at a time, counts the items ahead, and drops
the scores. Below, a cell is a tile; H marks the home chunk of a block, c a tile that is counted.

                        gallery items ->
               chunk 0      chunk 1      chunk 2      chunk 3
             +------------+------------+------------+------------+
    block 0  |     H      |     c      |     c      |     c      |
             +------------+------------+------------+------------+
    block 1  |     H      |     c      |     c      |     c      |   group 0: blocks 0 and 1,
             +------------+------------+------------+------------+   on two devices
    block 2  |     c *    |     H      |     c      |     c      |
             +------------+------------+------------+------------+
    queries    home of      home of      no block's home: only
               pids 1-40    pids 41-90   distractors

    * Block 2 learns its thresholds from chunk 1. Chunk 0 waits for it in the chunk cache.

Terms:

    block       queries that are scored together on one device, padded to a fixed number of rows
    group       one block for each device of this host; its blocks are scored at the same time
    chunk       gallery items that are scored together, in gallery order, padded to a fixed length
    tile        the scores of a block (or group) against a chunk
    meet        a group meets a chunk: its tile is computed and counted
    relevant    items of the query's identity whose ranks are wanted
    removed     items of the query's identity that its ranking leaves out, by the camera rule or by
                the caller's lists
    hidden      items of other identities that the caller's lists leave out of a query's ranking
    matched     items that are relevant to, or removed for, some query
    home chunk  the chunk that contains all items of the query's identity
    threshold   the score of a relevant item, read from the tile of its home chunk. Items with
                greater scores are ahead, and items with equal scores and a lower index
    page        up to 128 relevant items of each query of a block, with thresholds and counts, as
                arrays [queries, 128]. A query with more relevant items has several pages
    slot        a column of a page: one relevant item of each query, or empty
    step        counting for 32 queries (or all) and 8 slots of a page
    window      64 consecutive scores of a tile's row that a CPU compares in registers

Modules, in the order of the data:

    tiling            the plan: which items and queries are in which chunk and block (NumPy only)
    prepare_features  features to unit length on the device; sources of gallery features
    query_blocks      groups of blocks as arrays on the devices
    chunks            chunks as arrays on the devices
    chunk_cache       chunks that some group has yet to meet
    hidden_items      which items to hide in which tile
    device_map        copies, splits and runs things on all devices
    count             the arithmetic of one tile
    count_pallas      counting as a GPU kernel
    count_mosaic      counting as a TPU kernel
    count_methods     the arithmetic on all devices, in the way that suits them
    kept_counts       counts in a file, so that an interrupted evaluation can continue
    ranks             the loop: all groups meet all chunks
"""
