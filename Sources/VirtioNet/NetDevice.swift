enum VirtioNetModule {}
