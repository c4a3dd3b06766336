enum AFXDPModule {}
