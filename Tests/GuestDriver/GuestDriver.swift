enum GuestDriverModule {}
