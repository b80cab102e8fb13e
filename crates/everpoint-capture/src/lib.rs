//! What a splitter decides: range locks, the order of writes, the bounded queue, closing of blocks.
