"""The example bodies that the five services print in their documents, as printed, without blanks at the ends of lines.

One is repaired: VideoAiditor's lacks a comma after `"videoVersion": 1` and has a comment in the place of the video data.
"""

ROTOR = """\
{
  "id": "8997ae3c-1d9f-4421-9064-c2a8ab386fa0",
  "event": "order.finalized",
  "created_at": "2023-02-13 13:09:42.654463",
  "type": "order",
  "payload": {
    "data": {
      "id": "49951b56-96ca-4bea-8cdb-c6875b33ce72",
      "type":"order",
      "attributes": {
        "title": "Rite - Rotor Pretenders [CANVAS]",
        "order_paid": true,
        "created_at": "2023-06-26T12:17:47.576Z",
        "updated_at": "2023-06-26T12:18:17.215Z",
        "total_credits": 1,
        "remote_user_id": "partner-user-12345",
        "remote_track_id": "partner-track-12345",
        "remote_release_id": "partner-release-12345",
        "assets": {
          "data": [
            {
              "id": "88066362-141b-11ee-a6aa-4e8eb07e0621",
              "type": "render",
              "attributes": {
                "style_used": "High Contrast canvas",
                "error": null,
                "created_at": "2023-06-26T12:18:16.246Z",
                "updated_at":"2023-06-26T12:18:48.828Z",
                "progress":1.0,
                "url": "https://rotorvideos-heroku-production-uploads.storage.googleapis.com/output/1.mp4?1687781928",
                "render_started_at":"2023-06-26T12:18:17.426Z",
                "render_completed_at":"2023-06-26T12:18:48.216Z",
                "specification": {
                  "bitrate": 0,
                  "container":"mp4",
                  "frame_rate":30.0,
                  "output_width":1080,
                  "output_height":1920,
                  "duration":8.0
                }
              }
            }
          ]
        }
      }
    }
  }
}
"""

ROUGHY = """\
{
  "type": "cut.completed",
  "data": { "entity_id": "<cut_id>", "asset_id": "<asset_id>" }
}
"""

VIDEOAIDITOR = """\
{
  "event": "render.completed",
  "data": {
    "_id": "render-id",
    "status": "completed",
    "outputUrl": "https://cdn.example.com/video.mp4",
    "error": "",
    "videoId": "video-id",
    "videoVersion": 1,
    "videoData": {
    },
    "createdAt": "2024-03-20T10:30:00Z",
    "updatedAt": "2024-03-20T10:31:00Z"
  }
}
"""

WOCHIT = (
    """\
{
    "type" : "video.ready",
    "videoContext": "string-sent-when-opened-the-video-editor",
    "wochitVideoId": "6094092472a9105747957aa3",
    "thumbnailUrl": "http://example.com/direct-link-to-thumbnail",
    "videoUrl": "https://example.com/direct-link-to-video",
    "title": "The video title",
    "videoDuration" : 35.9
}
""",
    """\
{
    "type" : "video.delete",
    "videoContext": "string-sent-when-opened-the-video-editor",
    "wochitVideoId": "6094092472a9105747957aa3"
}
""",
    """\
{
    "type" : "draft.new",
    "videoContext": "string-sent-when-opened-the-video-editor",
    "wochitVideoId": "6094092472a9105747957aa3",
    "thumbnailUrl": "http://example.com/direct-link-to-thumbnail",
    "title": "The video title"
}
""",
    """\
{
    "type" : "draft.update",
    "videoContext": "string-sent-when-opened-the-video-editor",
    "wochitVideoId": "6094092472a9105747957aa3",
    "thumbnailUrl": "http://example.com/direct-link-to-thumbnail",
    "title": "The video title"
}
""",
    """\
{
    "type" : "draft.delete",
    "wochitVideoId": "6094092472a9105747957aa3"
}
""",
)

EDITFRAME = (
    '{"topic": "render.created","data": {"id": "550e8400-e29b-41d4-a716-446655440000","status": "created","created_at": "2024-10-30T10:00:00Z","completed_at": null,"failed_at": null,"width": 1920,"height": 1080,"fps": 30,"byte_size": null,"duration_ms": null,"md5": null,"metadata": { "project_id": "abc123" },"download_url": null}}',
    '{"topic": "render.completed","data": {"id": "550e8400-e29b-41d4-a716-446655440000","status": "complete","created_at": "2024-10-30T10:00:00Z","completed_at": "2024-10-30T10:01:23Z","failed_at": null,"width": 1920,"height": 1080,"fps": 30,"byte_size": 15728640,"duration_ms": 5000,"md5": "098f6bcd4621d373cade4e832627b4f6","metadata": { "project_id": "abc123" },"download_url": "https://editframe.com/api/v1/renders/550e8400-e29b-41d4-a716-446655440000/mp4"}}',
    '{"topic": "render.failed","data": {"id": "550e8400-e29b-41d4-a716-446655440000","status": "failed","created_at": "2024-10-30T10:00:00Z","completed_at": null,"failed_at": "2024-10-30T10:00:45Z","width": 1920,"height": 1080,"fps": 30,"byte_size": null,"duration_ms": null,"md5": null,"metadata": { "project_id": "abc123" },"download_url": null}}',
    '{"topic": "file.created","data": {"id": "660e8400-e29b-41d4-a716-446655440001","type": "video","status": "created","filename": "my-video.mp4","byte_size": null,"md5": null,"mime_type": null,"width": null,"height": null}}',
    '{"topic": "file.ready","data": {"id": "660e8400-e29b-41d4-a716-446655440001","type": "video","status": "ready","filename": "my-video.mp4","byte_size": 52428800,"md5": "5d41402abc4b2a76b9719d911017c592","mime_type": "video/mp4","width": 1920,"height": 1080}}',
    '{"topic": "webhook.test","data": {"id": "your-api-key-id","org_id": "your-org-id"}}',
)
