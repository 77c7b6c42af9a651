//! dataplane/af_xdp
