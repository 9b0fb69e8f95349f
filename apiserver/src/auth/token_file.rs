//! token_file
